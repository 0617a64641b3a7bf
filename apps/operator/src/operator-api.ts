/** A server that answered, and said no. */
export class ApiError extends Error {
  readonly status: number;
  /** Undefined where the answer is not of the platform API. */
  readonly errcode: string | undefined;

  constructor(status: number, errcode: string | undefined, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.errcode = errcode;
  }
}

/** The platform API, as the commands need it. */
export class OperatorApi {
  readonly url: string;
  readonly #token: string;

  constructor(url: string, token: string) {
    this.url = url.replace(/\/+$/, '');
    this.#token = token;
  }

  /**
   * The JSON answer. Throws an {@link ApiError} in the server's words for anything but a good status, and an `Error`
   * where nobody answers, or not in JSON.
   */
  async call<Answer>(method: 'GET' | 'POST', path: string, body?: object): Promise<Answer> {
    let response: Response;
    let text: string;
    try {
      response = await fetch(`${this.url}${path}`, {
        method,
        headers: { Authorization: `Bearer ${this.#token}` },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      text = await response.text();
    } catch (cause) {
      throw new Error(`nothing answers at ${this.url}: is the server running?`, { cause });
    }
    let answer: Answer & { readonly errcode?: string; readonly error?: string };
    try {
      answer = JSON.parse(text) as typeof answer;
    } catch (cause) {
      throw new Error(`what answers at ${this.url} with ${response.status} is no platform API`, { cause });
    }
    if (!response.ok) {
      const words = `${response.status} ${answer.error ?? response.statusText}`;
      throw new ApiError(response.status, answer.errcode, words);
    }
    return answer;
  }
}
