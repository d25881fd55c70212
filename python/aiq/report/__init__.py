"""Reports: tables and plots of plans and measurements."""
