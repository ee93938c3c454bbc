/* Loads a SavedModel by TensorFlow's C API, as a server does, and asks it.

   load_saved_model DIRECTORY INPUT FILE HEIGHT WIDTH OUTPUT...

   INPUT and OUTPUT are names of tensors such as "serving_default_image_bytes:0". FILE is fed as one string, or with a
   HEIGHT and a WIDTH above 0 as uint8 [1, height, width, 3]. Each output is printed in a line, values with spaces between. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static char *read_file(const char *path, size_t *length) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  char *content = malloc(*length + 1);
  if (fread(content, 1, *length, file) != *length) fail(path, "cannot be read");
  fclose(file);
  return content;
}

static TF_Output find(TF_Graph *graph, const char *tensor) {
  char name[256];
  snprintf(name, sizeof name, "%s", tensor);
  char *colon = strrchr(name, ':');
  if (!colon) fail(tensor, "is no tensor's name");
  *colon = '\0';
  TF_Output found = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (!found.oper) fail(tensor, "is not in the graph");
  return found;
}

static TF_Tensor *as_string(const char *content, size_t length) {
  const int64_t one[] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, one, 1, sizeof(TF_TString));
  TF_TString *string = TF_TensorData(tensor);
  TF_StringInit(string);
  TF_StringCopy(string, content, length);
  return tensor;
}

static TF_Tensor *as_pixels(const char *content, size_t length, int64_t height, int64_t width) {
  const int64_t shape[] = {1, height, width, 3};
  if ((size_t)(height * width * 3) != length) fail("pixels", "are not of that height and width");
  TF_Tensor *tensor = TF_AllocateTensor(TF_UINT8, shape, 4, length);
  memcpy(TF_TensorData(tensor), content, length);
  return tensor;
}

static void print(TF_Tensor *tensor) {
  int64_t count = TF_TensorElementCount(tensor);
  for (int64_t i = 0; i < count; i++) {
    if (TF_TensorType(tensor) == TF_FLOAT) {
      printf("%.9g ", ((float *)TF_TensorData(tensor))[i]);
    } else {
      TF_TString *string = (TF_TString *)TF_TensorData(tensor) + i;
      printf("%.*s ", (int)TF_StringGetSize(string), TF_StringGetDataPointer(string));
    }
  }
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 7) fail(argv[0], "needs DIRECTORY INPUT FILE HEIGHT WIDTH OUTPUT...");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);

  size_t length;
  char *content = read_file(argv[3], &length);
  int64_t height = atoll(argv[4]), width = atoll(argv[5]);
  TF_Output input = find(graph, argv[2]);
  TF_Tensor *value = height > 0 ? as_pixels(content, length, height, width) : as_string(content, length);

  int count = argc - 6;
  TF_Output *outputs = malloc((size_t)count * sizeof *outputs);
  TF_Tensor **answers = calloc((size_t)count, sizeof *answers);
  for (int i = 0; i < count; i++) outputs[i] = find(graph, argv[6 + i]);
  TF_SessionRun(session, NULL, &input, &value, 1, outputs, answers, count, NULL, 0, NULL, status);
  check(status, "run");
  for (int i = 0; i < count; i++) {
    print(answers[i]);
    TF_DeleteTensor(answers[i]);
  }

  TF_DeleteTensor(value);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  free(content);
  free(outputs);
  free(answers);
  return 0;
}
