"""What one run recorded: sites, statistics, arrays, and the file that holds them."""
