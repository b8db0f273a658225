"""Run `m2l inspect`, `m2l verify` and `m2l doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from m2l_runtime.cli._options import BundleArgument, Json, echo_json


def inspect(bundle: BundleArgument = None, json: Json = False) -> None:
    """Describe a bundle, check its files, and list the engines that run it here."""
    from m2l_runtime.backends.trt.plans import check_plans
    from m2l_runtime.bundle import embedded
    from m2l_runtime.bundle.io import open_bundle
    from m2l_runtime.doctor import engine_reports

    opened = open_bundle(embedded.BUNDLE if bundle is None else bundle)
    opened.check()
    reports = engine_reports(opened)
    plans = check_plans(opened.manifest)
    if json:
        import dataclasses

        from m2l_runtime.cli.report import appearance_counts

        echo_json(
            {
                "path": str(opened.path),
                "sha256": opened.sha256,
                "manifest": opened.manifest.fields(),
                "appearances": appearance_counts(opened),
                "engines": [dataclasses.asdict(report) for report in reports],
                "plans": [dataclasses.asdict(compatibility) for compatibility in plans],
            }
        )
        return
    from m2l_runtime.cli.report import describe_bundle, describe_engines, describe_plan_compatibility

    typer.echo(describe_bundle(opened))
    typer.echo("\nOn this machine:\n" + describe_engines(reports))
    if plans:
        typer.echo("\nPlans on this machine:\n" + describe_plan_compatibility(plans))


def verify(
    bundle: BundleArgument = None,
    trust_plans: Annotated[
        bool,
        typer.Option(
            "--trust-plans",
            help="Replay the bundle's TensorRT plans. Plans are code: load only those of a maker you trust.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Replay a bundle's golden images on every engine here and compare.

    Exit status 1 if any differs.
    """
    from m2l_runtime.bundle import embedded
    from m2l_runtime.bundle.io import open_bundle
    from m2l_runtime.errors import EngineNotInstalled
    from m2l_runtime.verify import replay_golden

    opened = open_bundle(embedded.BUNDLE if bundle is None else bundle)
    replays = replay_golden(opened, trust_plans=trust_plans)
    ran = [replay for replay in replays if replay.max_level_difference is not None]
    if json:
        import dataclasses

        echo_json(
            {
                "sha256": opened.sha256,
                "agrees": bool(ran) and all(replay.agrees for replay in ran),
                "replays": [dataclasses.asdict(replay) for replay in replays],
            }
        )
    else:
        from m2l_runtime.cli.report import describe_replays

        typer.echo(describe_replays(opened, replays))
    if not ran:
        raise EngineNotInstalled(
            'no engine loads here, so nothing was verified: pip install "m2l[cpu]" or "m2l[openvino]"'
        )
    if not all(replay.agrees for replay in ran):
        raise typer.Exit(1)


def doctor(json: Json = False) -> None:
    """List the engines that work on this machine, and why others do not.

    Exit status 1 if none does.
    """
    from m2l_runtime.bundle import embedded
    from m2l_runtime.bundle.io import open_bundle
    from m2l_runtime.doctor import engine_reports, machine_facts

    facts = machine_facts()
    reports = engine_reports(open_bundle(embedded.BUNDLE))
    if json:
        import dataclasses

        echo_json({"machine": facts, "engines": [dataclasses.asdict(report) for report in reports]})
    else:
        from m2l_runtime._utils.text import table
        from m2l_runtime.cli.report import describe_engines

        typer.echo(table(facts.items()))
        typer.echo("\n" + describe_engines(reports))
    if not any(report.loads and not report.is_fake for report in reports):
        raise typer.Exit(1)


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
