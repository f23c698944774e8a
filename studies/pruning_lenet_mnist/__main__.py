from studies.pruning_lenet_mnist.study import main

main()
