"""How large should the mini-batches be whose noise Stochastic Batch Normalization draws?"""
