"""Networks that are not of the family, for ``teacher.network`` and ``student.network``."""
