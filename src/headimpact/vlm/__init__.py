"""What a vision-language model is: ``base`` says what the project needs of one, ``families`` holds one file a family.

``loading`` makes one from a folder or a hub name. ``attention`` reads attention rows while the decoder runs,
``packing`` puts all conversations about an image into one sequence, ``tokengrid`` says where visual tokens lie.
"""
