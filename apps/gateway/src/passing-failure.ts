import { DatabaseUnavailable } from '@exeunt/database';
import { LeavingContended } from '@exeunt/leaving';
import { RoomContended } from '@exeunt/room-store';

/** Whether a failure says nothing of the work: the store can't be had, or did not hold still. Trying later may do. */
export function isPassing(cause: unknown): boolean {
  return (
    cause instanceof DatabaseUnavailable ||
    cause instanceof RoomContended ||
    cause instanceof LeavingContended
  );
}
