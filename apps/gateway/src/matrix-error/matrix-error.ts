import type { Refusal, RefusalKind } from '@exeunt/room';

/** The error codes that we answer with. Spec v1.19, client-server-api, Standard error response. */
export type Errcode =
  | 'M_BAD_JSON'
  | 'M_FORBIDDEN'
  | 'M_INCOMPATIBLE_ROOM_VERSION'
  | 'M_INVALID_PARAM'
  | 'M_LIMIT_EXCEEDED'
  | 'M_MISSING_PARAM'
  | 'M_NOT_FOUND'
  | 'M_NOT_JSON'
  | 'M_TOO_LARGE'
  | 'M_UNAUTHORIZED'
  | 'M_UNKNOWN'
  | 'M_UNKNOWN_TOKEN'
  | 'M_MISSING_TOKEN'
  | 'M_UNRECOGNIZED';

/** The answer to a request that gets nothing else: `{errcode, error, rule?}` under an HTTP status. (HT-04) */
export class MatrixError extends Error {
  constructor(
    readonly status: number,
    readonly errcode: Errcode,
    message: string,
    /** The requirement it rests on, where there is one. */
    readonly rule?: string,
  ) {
    super(message);
  }

  body(): { readonly errcode: Errcode; readonly error: string; readonly rule?: string } {
    return {
      errcode: this.errcode,
      error: this.rule === undefined ? this.message : `${this.message} (${this.rule})`,
      ...(this.rule === undefined ? {} : { rule: this.rule }),
    };
  }
}

/** A room version that one of the two servers can't take part in; the answer names it. (IN-05, KN-01) */
export class IncompatibleRoomVersion extends MatrixError {
  constructor(
    private readonly roomVersion: string,
    message: string,
    rule: string,
  ) {
    super(400, 'M_INCOMPATIBLE_ROOM_VERSION', message, rule);
  }

  override body(): ReturnType<MatrixError['body']> & { readonly room_version: string } {
    return { ...super.body(), room_version: this.roomVersion };
  }
}

/** How a refusal is told over HTTP. The codes of requirements section 8, rows 5 to 15. */
export function refusalToMatrixError(refusal: Refusal): MatrixError {
  if (refusal.roomVersion !== undefined) {
    return new IncompatibleRoomVersion(refusal.roomVersion, refusal.detail, refusal.rule);
  }
  const [status, errcode] = statusOf(refusal.refused);
  return new MatrixError(status, errcode, refusal.detail, refusal.rule);
}

function statusOf(kind: RefusalKind): readonly [status: number, errcode: Errcode] {
  switch (kind) {
    case 'not-resident':
    case 'unknown-event':
      return [404, 'M_NOT_FOUND'];
    case 'server-denied':
    case 'server-not-in-room':
    case 'user-not-of-origin':
    case 'user-not-local':
    case 'unknown-reference':
    case 'not-authorised':
    case 'soft-failed':
      return [403, 'M_FORBIDDEN'];
    case 'incompatible-room-version':
      return [400, 'M_INCOMPATIBLE_ROOM_VERSION'];
    case 'not-canonical':
    case 'bad-format':
      return [400, 'M_BAD_JSON'];
    case 'too-large':
      return [413, 'M_TOO_LARGE'];
    case 'wrong-parameter':
      return [400, 'M_INVALID_PARAM'];
    // The one constant to switch for peers that expect 403 M_FORBIDDEN here. (GX-12)
    case 'bad-signature':
      return [400, 'M_INVALID_PARAM'];
    default:
      return kind satisfies never;
  }
}
