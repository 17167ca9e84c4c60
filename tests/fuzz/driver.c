/* libFuzzer on a Cython target: starts Python, imports the module the program is named after, gives its `run` each input.
 *
 * An exception is a finding like a crash: it is printed, and abort() makes libFuzzer keep the input. The module and the
 * core are compiled apart (tests/fuzz/build.py) and find the sanitizers' and the fuzzer's functions in this program. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *run;

static void require(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s:\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    exit(1);
}

/* DRIVER_PYTHON and DRIVER_PATH are the interpreter (of a virtual environment, perhaps) and where to import from. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *slash = strrchr((*argv)[0], '/');
    const char *name = slash ? slash + 1 : (*argv)[0];
    PyConfig config;
    PyStatus status;
    PyObject *module;

    (void)argc;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    config.write_bytecode = 0;
    status = PyConfig_SetBytesString(&config, &config.program_name, DRIVER_PYTHON);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesString(&config, &config.pythonpath_env, DRIVER_PATH);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    module = PyImport_ImportModule(name);
    require(module != NULL, "the program's name is that of no target");
    run = PyObject_GetAttrString(module, "run");
    require(run != NULL, "the target has no function run");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *input = PyMemoryView_FromMemory((char *)data, (Py_ssize_t)size, PyBUF_READ);
    PyObject *result = input ? PyObject_CallOneArg(run, input) : NULL;

    if (result == NULL) {
        PyErr_Print();
        fflush(NULL);
        abort();
    }
    Py_DECREF(result);
    Py_DECREF(input);
    return 0;
}
