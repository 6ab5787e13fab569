"""Tables of conditions, predicted in parts."""
