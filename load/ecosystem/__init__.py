"""Other people's load clients against our gateway, and our replay beside them."""
