"""Clients of a served network: in this process, over gRPC, and over REST."""
