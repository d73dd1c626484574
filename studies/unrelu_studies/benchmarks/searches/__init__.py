"""The joint search and the other methods: what they recover, in what time, and whether their verdict is true."""
