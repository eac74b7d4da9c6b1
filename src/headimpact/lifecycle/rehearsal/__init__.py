"""What will a real checkpoint cost on this machine? Tried with one of random weights before anything is fetched.

``checkpoints`` makes the checkpoint, ``images`` what it looks at; ``runs`` scores, trains and evaluates under a clock;
``outcome`` is what is written of it, and shown.
"""
