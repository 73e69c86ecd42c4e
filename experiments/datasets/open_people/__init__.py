"""The generator of people: identities and face units in the open head's topology, made of CC0 MakeHuman data."""
