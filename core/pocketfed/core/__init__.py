"""What every part of pocketfed shares: captures, views, encoders, objectives, the learning step, evaluation."""
