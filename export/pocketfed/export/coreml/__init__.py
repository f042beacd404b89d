"""Core ML packages for iOS: made on any system, run here only by `export.mil`, never yet on Apple's hardware."""
