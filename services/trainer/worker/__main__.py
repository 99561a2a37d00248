"""``python -m services.trainer.worker`` does one job as a child process of the trainer."""

from services.trainer.worker.process import main

if __name__ == "__main__":
    main()
