"""What is trained? LoRA on chosen layers or heads.

Open ``lora`` first: it attaches an adapter, checks that exactly the chosen modules carry it and that it has an effect,
saves and loads it. ``training`` trains one and keeps its best weights; ``cell`` goes from the chosen layers to a
trained adapter; ``cost`` estimates parameters, memory and time.
"""
