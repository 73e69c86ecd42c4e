"""Generator of people: identities and face units in the open head's topology, from CC0 MakeHuman data."""
