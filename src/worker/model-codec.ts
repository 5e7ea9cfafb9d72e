/** The codec of a model file: its tokenizer and its chat template. */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ChatTemplate, TemplateError } from "../engine/template/index.js";
import {
  StreamDecoder,
  TokenizerError,
  type TextPiece,
  type Tokenizer,
} from "../engine/tokenizer/index.js";
import { TextCodecError, type TextCodec } from "./text-codec.js";

/**
 * Puts a model's tokenizer and template together.
 * @param chatTemplate the file's template; undefined takes the default one
 * @throws TemplateError if the template cannot be parsed
 */
export function createModelCodec(
  tokenizer: Tokenizer,
  chatTemplate: string | undefined,
): TextCodec {
  const nameOf = (id: number | undefined): string => (id === undefined ? "" : tokenizer.textOf(id));
  const template = new ChatTemplate(chatTemplate, {
    bos: nameOf(tokenizer.facts.bos),
    eos: nameOf(tokenizer.facts.eos),
    controlTexts: tokenizer.controlTexts,
  });
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
    templateFingerprint: bytesToHex(sha256(new TextEncoder().encode(template.source))),
    encodeFirst: (messages) => encode(() => template.renderFirst(messages), true),
    encodeContinuation: (messages) => encode(() => template.renderContinuation(messages), false),
    decoder: () => new StreamDecoder(tokenizer),
    isEnd: (id) => tokenizer.endsGeneration(id),
  };
}
