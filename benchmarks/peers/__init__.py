"""The scoreboard's scenarios over other metering handlers, with their gates and back ends stubbed on loopback."""
