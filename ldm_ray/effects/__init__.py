"""What a treated well consists of besides chance: its plate's control, the effects of plates, the compound's effect."""
