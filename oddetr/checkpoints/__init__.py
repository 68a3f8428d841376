"""oddetr's checkpoints, official ones and transformers', the model card, and the Hugging Face Hub."""
