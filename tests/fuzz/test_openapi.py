"""Requests made from the server's own description, by schemathesis: what it says is what is served."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running_server import RunningServer
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

# Whether a body that fits its schema is served depends on more than a schema can say (max_tokens beyond the
# context, min_tokens above max_tokens), so positive_data_acceptance is not among them.
CHECKS: Any = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
SECONDS = 60
EXAMPLES = {GenerationMode.POSITIVE: 10, GenerationMode.NEGATIVE: 10}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", EXAMPLES)
def test_what_is_described(server: RunningServer, mode: GenerationMode) -> None:
    api = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # a name in a path is a text, whatever it is
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=EXAMPLES[mode],
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        @given(case=strategy)
        def hold(case: Any) -> None:
            if isinstance(case.body, dict) and case.path.startswith("/v1"):
                case.body["timeout"] = 2  # whatever it asks for ends soon
            case.validate_response(case.call(timeout=SECONDS), checks=CHECKS)

        hold()
