from infra.observability import dashboard, expressions


def test_metrics_of_an_expression_are_found_whole() -> None:
    text = 'histogram_quantile(0.5, sum by (le) (rate(vllm:e2e_seconds_bucket{le="1"}[5m]))) / prfaas_y_total and prfaas:late_5m'
    assert expressions.metrics(text) == {"vllm:e2e_seconds", "prfaas_y"}


def test_a_metric_that_is_not_exposed_is_named_with_its_expression() -> None:
    assert expressions.unknown(["prfaas_a_total > 1", "prfaas_b > 1"], {"prfaas_a"}) == {"prfaas_b > 1": {"prfaas_b"}}


def test_every_rule_and_query_names_a_metric_or_a_recorded_one() -> None:
    recorded = {rule.record for rule in expressions.rules() if rule.record}
    for expression in [*dashboard.queries(), *(rule.expr for rule in expressions.rules())]:
        assert expressions.metrics(expression) or any(name in expression for name in recorded) or expression.startswith("up")
