"""Conformance suites, shipped so that the author of a plug-in can run them: ``MethodSuite``, ``ScheduleSuite``..."""
