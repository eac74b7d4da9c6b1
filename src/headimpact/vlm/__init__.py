"""What is a vision-language model, whatever its family?

Open ``base`` first: what a family has to say of itself, and all that follows from it. ``families`` holds one file a
family, and says how to add one. ``loading`` makes a model from a folder, a hub name or a model in memory, with its
small files (``settings``) held to each other.

``conversations`` writes a conversation about an image and finds the answer's tokens; ``prompts`` are those that
families share; ``packing`` puts all conversations about an image into one sequence; ``attention`` reads attention rows
while the decoder runs; ``geometry`` says which pixels a visual token sees (``squashed``: of images that become
one square), ``tokengrid`` where the tokens lie and which of them see an object.
"""
