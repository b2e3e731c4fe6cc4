"""The Flower app: wiring of server and clients, engines, tracking and commands."""
