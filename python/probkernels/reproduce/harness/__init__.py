"""What every reproduction shares: its protocol, workers, data, models of several methods, style and report."""
