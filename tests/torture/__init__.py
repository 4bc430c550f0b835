"""The judge: pysendmail is killed, cut off and overloaded, and what can be seen from outside is held against I1-I16."""
