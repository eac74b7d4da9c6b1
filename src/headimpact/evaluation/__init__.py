"""How good a model is: its phrases and its answers on the test part.

``objects`` (open it first) evaluates every object; ``orders`` asks in every order of the options; ``answers`` lets the
model speak.
"""
