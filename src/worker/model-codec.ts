/** The codec of a model file: its tokenizer and its chat template. */
import { TemplateError, type ChatTemplate } from "../engine/template/index.js";
import {
  StreamDecoder,
  TokenizerError,
  type TextPiece,
  type Tokenizer,
} from "../engine/tokenizer/index.js";
import { TextCodecError, type TextCodec } from "./text-codec.js";

/** What a codec is made of. */
export interface ModelText {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** SHA-256 of the template's source, lower-case hexadecimal. */
  readonly templateFingerprint: string;
}

/** Puts a model's tokenizer and template together. */
export function createModelCodec(text: ModelText): TextCodec {
  const { tokenizer, template, templateFingerprint } = text;
  const encode = (render: () => TextPiece[], start: boolean): number[] => {
    try {
      return tokenizer.encodePieces(render(), { start });
    } catch (error) {
      if (error instanceof TemplateError || error instanceof TokenizerError) {
        throw new TextCodecError(error.message, { cause: error });
      }
      throw error;
    }
  };
  return {
    templateFingerprint,
    encodeFirst: (messages) => encode(() => template.renderFirst(messages), true),
    encodeContinuation: (messages) => encode(() => template.renderContinuation(messages), false),
    decoder: () => new StreamDecoder(tokenizer),
    isEnd: (id) => tokenizer.endsGeneration(id),
  };
}
