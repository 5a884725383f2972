"""What several methods use: gates, reparametrizations, targets as counts."""
