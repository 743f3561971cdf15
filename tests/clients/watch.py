"""A caller in Python: watches a task that ends with failures, and checks that every failed user arrives.

Usage: watch.py HOST:PORT, with the stubs that grpcio-tools makes of the contract on PYTHONPATH.
"""

import sys

import grpc
from federation.v1 import federation_tasks_pb2 as pb
from federation.v1 import federation_tasks_pb2_grpc as rpc

# One a documented failCode.
FAILED_USERS = 15


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        tasks = rpc.FederationTasksStub(channel)

        request = pb.WatchTaskRequest(task_id="fail-python")
        messages = list(tasks.WatchTask(request, timeout=60))
        reasons = [pb.WatchReason.Name(message.reason) for message in messages]
        states = [pb.TaskStatus.Name(message.task.status) for message in messages]
        print("watched:", ", ".join(states))
        assert reasons[0] == "WATCH_REASON_INITIAL", reasons
        assert set(reasons[1:]) == {"WATCH_REASON_CHANGED"}, reasons
        assert states == ["TASK_STATUS_TODO", "TASK_STATUS_DOING", "TASK_STATUS_DONE"], states
        failed = messages[-1].task.fail_data
        assert sorted(user.fail_reason for user in failed) == list(range(1, FAILED_USERS + 1)), failed
        assert len({user.fail_code for user in failed}) == FAILED_USERS, failed
        assert all(user.federation_user.user_account and user.fail_message for user in failed), failed
        print(f"all {len(failed)} failed users arrived")

        try:
            tasks.QueryTask(pb.QueryTaskRequest(task_id="no spaces, please"), timeout=5)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
            details = dict(error.trailing_metadata())["grpc-status-details-bin"]
            assert b"INVALID_FIELD" in details, details
        else:
            raise AssertionError("a bad id was taken")
        print("a bad id was refused, with its reason")


if __name__ == "__main__":
    main(sys.argv[1])
