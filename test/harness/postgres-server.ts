/**
 * A real PostgreSQL for contract tests and outages. The same code starts one from the command line, so it is a script
 * that runs without a build; this is its typed face.
 *
 * A suite asks `findPostgres()` first: `undefined` means that it cannot run here and must say so.
 */
export {
  findPostgres,
  startPostgres,
  type FoundPostgres,
  type PostgresServer,
} from '../../scripts/services/postgres.mjs';
