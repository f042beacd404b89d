"""The phone: runs a program over its own captures and answers the server."""
