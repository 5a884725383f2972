"""Order of work: shared stages before the trials that need them, and what happens when one fails."""

from orchestrator.spec.failures import Failure, JobOutcome
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.driver.jobs import Job, JobQueue, jobs_of, latency_job, remaining_jobs
from orchestrator.sweep.planning import Plan, plan

NO_MEMORY = Failure(JobOutcome.OUT_OF_MEMORY, "baseline failed: no memory")


def planned() -> Plan:
    base = {"model": "lenet5", "data": "digits", "retrain": "clr"}
    axes = {"target.sparsity": [0.3, 0.5], "seed": [0, 1]}
    return plan(SearchSpace.parse({"name": "s", "base": base, "axes": axes, "arms": ["l1_norm", "taylor", "sfp"]}))


def drain(queue: JobQueue) -> list[list[Job]]:
    """Take all that can start, then finish it; wave by wave."""
    waves = []
    while not queue.exhausted:
        wave = []
        while (job := queue.take()) is not None:
            wave.append(job)
        assert wave, "nothing can start and nothing runs"
        waves.append(wave)
        for job in wave:
            queue.finish(job.key)
    return waves


def test_every_job_runs_once_and_after_what_it_needs() -> None:
    jobs = remaining_jobs(planned(), set(), lambda name, key: False)
    waves = drain(JobQueue(jobs))
    order = [job.key for wave in waves for job in wave]
    assert len(order) == len(set(order)) == 2 + 2 + 4 + 12
    when = {job.key: i for i, wave in enumerate(waves) for job in wave}
    assert all(when[need] < when[job.key] for job in jobs for need in job.needs)


def test_recorded_trials_and_stages_that_are_there_are_left_out() -> None:
    this = planned()
    everything = {trial.trial_id for trial in this.trials}
    assert remaining_jobs(this, everything, lambda name, key: False) == []
    one_left = remaining_jobs(this, everything - {this.trials[0].trial_id}, lambda name, key: name == "baseline")
    assert [(job.kind, job.needs) for job in one_left] == [("trial", ())]


def test_a_failed_stage_takes_its_trials_with_it_and_no_others() -> None:
    this = planned()
    queue = JobQueue(remaining_jobs(this, set(), lambda name, key: False))
    first = queue.take()
    assert first is not None
    assert first.kind == "baseline"
    lost = queue.fail_stage(first.key, NO_MEMORY)
    assert {job.spec.seed for job in lost} == {first.spec.seed}
    assert len(lost) == 6
    rest = [job for wave in drain(queue) for job in wave]
    assert {job.spec.seed for job in rest} == {1 - first.spec.seed}


def test_a_job_whose_worker_died_is_tried_again_but_not_for_ever() -> None:
    queue = JobQueue(remaining_jobs(planned(), set(), lambda name, key: False))
    job = queue.take()
    assert job is not None
    for _ in range(2):
        assert queue.retry(job)
        assert queue.take() == job
    assert not queue.retry(job)


def test_the_queue_is_not_exhausted_while_something_may_come_back() -> None:
    this = planned()
    last = {trial.trial_id for trial in this.trials} - {this.trials[0].trial_id}
    queue = JobQueue(remaining_jobs(this, last, lambda name, key: True))
    job = queue.take()
    assert job is not None
    assert queue.take() is None
    assert not queue.exhausted
    queue.finish(job.key)
    assert queue.exhausted


def test_late_jobs_bring_the_stages_they_lack_and_share_those_under_way() -> None:
    this = planned()
    queue = JobQueue()
    assert queue.add(jobs_of(this.trials[0], lambda name, key: False)) == []
    baseline = queue.take()
    assert baseline is not None
    assert (baseline.kind, queue.take()) == ("baseline", None)
    sibling = next(
        trial for trial in this.trials[1:] if trial.arm == "l1_norm" and trial.spec.seed == this.trials[0].spec.seed
    )
    queue.add(jobs_of(sibling, lambda name, key: False))
    assert queue.take() is None  # both wait for the one baseline
    queue.finish(baseline.key)
    ready = [queue.take(), queue.take(), queue.take()]
    assert [job.key if job else None for job in ready] == [this.trials[0].trial_id, sibling.trial_id, None]


def test_a_late_trial_that_needs_a_failed_stage_is_lost_at_once() -> None:
    this = planned()
    queue = JobQueue(jobs_of(this.trials[0], lambda name, key: False))
    baseline = queue.take()
    assert baseline is not None
    queue.fail_stage(baseline.key, NO_MEMORY)
    sparse = next(trial for trial in this.trials if trial.arm == "sfp" and trial.spec.seed == baseline.spec.seed)
    ((lost, failure),) = queue.add(jobs_of(sparse, lambda name, key: False))
    assert lost.key == sparse.trial_id
    assert failure == NO_MEMORY
    assert queue.exhausted


def test_a_network_is_measured_while_nothing_else_runs() -> None:
    queue = JobQueue(remaining_jobs(planned(), set(), lambda name, key: True))
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    queue.finish(first.key)
    queue = JobQueue([latency_job(first), second])
    running = queue.take()
    assert running is not None
    assert running.kind == "latency"
    assert queue.take() is None  # the trial waits
    queue.finish(running.key)
    assert queue.take() == second
    queue.add([latency_job(second)])
    assert queue.take() is None  # the measuring waits
    assert not queue.exhausted
