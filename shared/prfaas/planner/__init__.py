"""What only `prfaas plan` needs: deployments, the network program, reports."""
