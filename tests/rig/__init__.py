"""What tests share: a scripted smarthost, a certificate authority, dialogues."""
