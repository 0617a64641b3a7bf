import type { RemoteError } from '@exeunt/federation-client';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** What our caller is told when another server would not, or could not, do its part. */
export function remoteErrorToMatrixError(remote: RemoteError): MatrixError {
  const words = remote.errcode === undefined ? remote.error : `${remote.errcode}: ${remote.error}`;
  if (remote.kind === 'http' && remote.status === 403) {
    return new MatrixError(403, 'M_FORBIDDEN', `the other server refuses: ${words}`);
  }
  return new MatrixError(502, 'M_UNKNOWN', `the other server (${remote.kind}): ${words}`);
}
