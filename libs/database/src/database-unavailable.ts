import pg from 'pg';
import { QueryFailedError, TypeORMError } from 'typeorm';

/**
 * The database can't be reached, was lost in the middle, or didn't answer within its bound. Trying again later may
 * well work; a statement that was under way may or may not have been carried out.
 */
export class DatabaseUnavailable extends Error {
  override readonly name = 'DatabaseUnavailable';

  constructor(cause: unknown) {
    super(`the database is unavailable: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

/**
 * SQLSTATEs that say nothing about the statement: connection exceptions (08), too many connections (53300), a
 * statement, lock or idle transaction over its time (57014, 55P03, 25P03), the server going down or coming up
 * (57P01 to 57P05), a transaction that the server gave up for another's sake (40001, 40P01).
 */
const passing = /^(08...|53300|57014|55P03|25P03|57P0[1-5]|40001|40P01)$/;

/** Whether the session is of no more use after this error. */
export function endsSession(error: unknown): boolean {
  return !(error instanceof pg.DatabaseError) || /^(08...|57P0[1-5]|25P03)$/.test(error.code ?? '');
}

/** A {@link DatabaseUnavailable} for what passes, the error itself for what is wrong with the statement. */
export function failure(error: unknown): unknown {
  if (error instanceof DatabaseUnavailable) return error;
  if (error instanceof pg.DatabaseError) {
    return passing.test(error.code ?? '') ? new DatabaseUnavailable(error) : error;
  }
  if (error instanceof QueryFailedError) {
    const own = failure(error.driverError);
    return own instanceof DatabaseUnavailable ? own : error;
  }
  if (error instanceof TypeORMError) return error;
  // What is left comes from the socket or the pool, unless somebody gave values that can't be sent.
  return error instanceof TypeError || error instanceof RangeError ? error : new DatabaseUnavailable(error);
}
