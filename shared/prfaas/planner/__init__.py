"""Parts of `prfaas plan` that no service needs: deployments, the network program, reports."""
