/**
 * For models without a template of their own, which are base models: what the messages say, one
 * after the other. An answer continues the message before it, so a story that is begun is told on;
 * every other message begins a line. Roles leave no other trace, because a base model knows none.
 */
export const defaultTemplate =
  "{% for message in messages %}" +
  "{% if not loop.first and message['role'] != 'assistant' %}{{ '\\n' }}{% endif %}" +
  "{{ message['content'] }}" +
  "{% endfor %}";
