"""What is trained: LoRA on chosen layers or heads.

``lora`` (open it first) attaches, checks, saves and loads; ``training`` trains; ``cell`` is one training and one
evaluation; ``cost`` estimates parameters, memory and time.
"""
