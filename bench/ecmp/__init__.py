"""What established connections notice when directors behind a router's ECMP die, join and leave."""
