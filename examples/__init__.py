"""Networks other than Video-FocalNets, for ``teacher.network`` and ``student.network``."""
