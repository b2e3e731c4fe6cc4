"""What runs on a vehicle: typed messages in and out, and the clients that answer them."""
