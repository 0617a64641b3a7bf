import { Controller, HttpCode, Inject, Put, UseGuards } from '@nestjs/common';
import { CommandBus } from '@nestjs/cqrs';
import { isRefusal } from '@exeunt/room';
import { isRoomVersionId, roomVersion, type RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import {
  eventIdIn,
  FederationRequestGuard,
  FromPeer,
  roomIdIn,
} from '../federation-request/federation-request.guard.js';
import { LosslessJson } from '../federation-request/lossless-json.js';
import { IncompatibleRoomVersion, MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { ReceiveInvite } from './receive-invite.command.js';

/**
 * `PUT invite`: a user of ours is invited. v2 for all versions, v1 for rooms of version 1 and 2.
 *
 * Spec v1.19, server-server-api, Inviting to a room. (IN-01, IN-02)
 */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class InviteController {
  constructor(@Inject(CommandBus) private readonly commands: CommandBus) {}

  @Put('v2/invite/:roomId/:eventId')
  @HttpCode(200)
  @LosslessJson()
  async inviteV2(@FromPeer() request: AuthenticatedRequest): Promise<string> {
    const body = request.content ?? {};
    const version = versionIn(body);
    const event = memberOf(body, 'event');
    if (!isJsonObject(event)) throw new MatrixError(400, 'M_BAD_JSON', 'event is not an object', 'HT-04');
    const shown = listIn(body, 'invite_room_state');
    return stringifyJson({ event: await this.receive(request, { version, isStated: true }, event, shown) });
  }

  @Put('v1/invite/:roomId/:eventId')
  @HttpCode(200)
  @LosslessJson()
  async inviteV1(@FromPeer() request: AuthenticatedRequest): Promise<string> {
    const event = request.content ?? {};
    const unsigned = memberOf(event, 'unsigned');
    const shown = isJsonObject(unsigned) ? listIn(unsigned, 'invite_room_state') : [];
    // Versions 1 and 2 differ in nothing that an invite or a leave is made of.
    const answer = await this.receive(request, { version: roomVersion('1')!, isStated: false }, event, shown);
    return stringifyJson([200, { event: answer }]);
  }

  private async receive(
    { origin, segments }: AuthenticatedRequest,
    { version, isStated }: { readonly version: RoomVersion; readonly isStated: boolean },
    event: JsonObject,
    shown: readonly JsonValue[],
  ): Promise<JsonObject> {
    const roomId = roomIdIn(segments[4]);
    const eventId = eventIdIn(segments[5]);
    const answer = await this.commands.execute(
      new ReceiveInvite(roomId, eventId, origin, version, isStated, event, shown),
    );
    if (!isRefusal(answer)) return answer;
    // Unlike send_leave, where the spec suggests 400: here deployed servers and their tests agree on 403. (IN-04)
    if (answer.refused === 'bad-signature') {
      throw new MatrixError(403, 'M_FORBIDDEN', answer.detail, answer.rule);
    }
    throw refusalToMatrixError(answer);
  }
}

function versionIn(body: JsonObject): RoomVersion {
  const id = memberOf(body, 'room_version');
  if (typeof id !== 'string') {
    throw new MatrixError(400, 'M_BAD_JSON', 'room_version is not a string', 'HT-04');
  }
  const version = roomVersion(id);
  if (version === undefined) {
    const named = isRoomVersionId(id) ? id : '';
    throw new IncompatibleRoomVersion(named, 'the room version is not known here', 'IN-05');
  }
  return version;
}

function listIn(object: JsonObject, key: string): readonly JsonValue[] {
  const value = memberOf(object, key);
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw new MatrixError(400, 'M_BAD_JSON', `${key} is not a list`, 'HT-04');
  return value as readonly JsonValue[];
}
