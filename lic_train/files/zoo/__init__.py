"""Import of weights that authors published: CompressAI's models, and the networks of the papers in lic_train.models.

``lic zoo FILE OUT.safetensors`` recognises the network from its tensors and writes a model file for evaluation, coding
and further training (``init_from=``).
"""
