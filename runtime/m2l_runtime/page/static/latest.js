// Do the latest of many jobs: one at a time, what came meanwhile but for the last is passed over.

/** Runs `work(job)` for the latest job, and gives results to `show(result, job)`, never an older one after a newer. */
export class Latest {
  constructor({ work, show, fail, delayMs = 0 }) {
    Object.assign(this, { work, show, fail, delayMs });
    this.waiting = null;
    this.isRunning = false;
    this.timer = null;
  }

  /** Ask for a job, after a pause in which a later one may take its place; 0: without a pause. */
  ask(job, delayMs = this.delayMs) {
    this.waiting = job;
    if (this.isRunning) return;
    if (this.timer !== null) {
      if (delayMs > 0) return;
      clearTimeout(this.timer);
    }
    this.timer = setTimeout(() => {
      this.timer = null;
      this.#run();
    }, delayMs);
  }

  get isBusy() {
    return this.isRunning || this.timer !== null;
  }

  async #run() {
    if (this.waiting === null) return;
    const job = this.waiting;
    this.waiting = null;
    this.isRunning = true;
    try {
      this.show(await this.work(job), job);
    } catch (error) {
      this.fail(error, job);
    } finally {
      this.isRunning = false;
    }
    if (this.waiting !== null) this.#run();
  }
}
