import type { ArgumentMetadata, PipeTransform } from '@nestjs/common';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** Query parameters are given once: one that is repeated arrives as a list, which no handler is made for. */
export class OneTextPipe implements PipeTransform {
  transform(value: unknown, { type, data }: ArgumentMetadata): unknown {
    if (type === 'query' && value !== undefined && typeof value !== 'string') {
      throw new MatrixError(400, 'M_INVALID_PARAM', `${data ?? 'a parameter'} is given more than once`);
    }
    return value;
  }
}
