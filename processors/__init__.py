"""Where policies and streams meet: the pure steps, the human-speed applications, the projector and verify."""
