"""What is trained: LoRA on chosen layers or heads.

``lora`` (open it first) attaches, checks, saves and loads; ``training`` trains; ``cell`` is one training from the
chosen layers to an adapter that is alive; ``cost`` estimates parameters, memory and time.
"""
